"""What is measured: one file for each workload, with the question that it answers."""
