"""What needs judges and reward models both: labelers and trainers never meet but here."""
