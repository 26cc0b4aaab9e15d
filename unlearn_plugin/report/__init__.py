"""What people look at: report.json, the page made from it, its pictures, and the model card."""
