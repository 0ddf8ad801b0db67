"""The idea: layers and networks without weight sharing. Needs torch and nothing else of sfl."""
