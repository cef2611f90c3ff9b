"""The methods, one file each: the file is called as the registry calls the method."""
