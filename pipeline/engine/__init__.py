"""Where the network runs: this process, or elsewhere behind the same Protocol."""
