"""tar <-> tree, and snapshots: how a layer's bytes become directories, and a container's changes become a layer."""
