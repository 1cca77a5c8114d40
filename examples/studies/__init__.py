"""What the studies share: jobs that are never run twice, intervals over seeds, reports."""
