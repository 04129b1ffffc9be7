"""The runtime: OCI bundles made into processes, and the small monitor that watches each container."""
