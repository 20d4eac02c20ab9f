"""What ``roborl bench`` and ``roborl bench-reward`` measure: one module per benchmark, and what several of them stand on."""
