"""Speed of neighbour lists and message passing against what is used elsewhere."""
