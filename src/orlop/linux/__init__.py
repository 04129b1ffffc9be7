"""The kernel as Python: the only room that uses ctypes. Import the module you need; nothing is re-exported."""
