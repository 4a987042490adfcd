from fastsoftmax._core cimport loss_of_labels
