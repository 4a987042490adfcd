from fastsoftmax._runtime import show_config

show_config()
