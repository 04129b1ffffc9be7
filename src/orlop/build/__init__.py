"""From a Dockerfile and a folder to an image; and images from this machine's own programs."""
