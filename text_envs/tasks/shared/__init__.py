"""What several families of tasks need: reading data, splits, drawing contexts, weights of parts."""
