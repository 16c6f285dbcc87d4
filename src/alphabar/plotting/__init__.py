"""Pictures of figures: curves of a run, results of a sweep, figures over costs. Matplotlib is loaded only when one is drawn."""
