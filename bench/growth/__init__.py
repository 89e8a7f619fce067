"""How costs grow with their work: measured at sizes far apart, fitted, drawn, and held against how the work itself grows."""
