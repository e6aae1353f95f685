"""From scores to events and alarms: rules, budgets, and a source that is watched live."""
