"""What the step costs: time, memory, and how far each part is from the products it must do."""
