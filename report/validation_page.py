"""placeholder"""


def write_page(found, folder): ...
