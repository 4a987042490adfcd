from fastsoftmax._core cimport reduce
