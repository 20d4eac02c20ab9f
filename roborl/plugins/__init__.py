"""LeRobot types of ours: the target of --*.discover_packages_path."""
