"""What learns: model, loss, optimizer and divergence guard. Needs torch, sfl.nn and errors."""
