"""Models side by side: plan, train_missing, results, compute; then table, sentences, report."""
