from fastsoftmax._core cimport normalize
