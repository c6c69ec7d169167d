"""The browser studio: a page of five tabs over the same recipe, runs and models as the command line."""
