"""3D molecules: data, networks, generators and honest metrics."""
