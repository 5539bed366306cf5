"""What a person sees: the live table of a search, elites, and the description of a program."""
