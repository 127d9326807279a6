"""What udppunch costs, measured beside a yardstick on the same machine."""
