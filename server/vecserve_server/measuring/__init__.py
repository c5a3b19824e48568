"""What measures the product: loads, encoders, indexes, rankings, and others at the same task.

Owns how figures are taken and reported. Nothing below the command line may import it.
"""
