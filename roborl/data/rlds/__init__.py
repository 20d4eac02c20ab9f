"""Episodes out of RLDS datasets as TFDS writes them, without TensorFlow."""
