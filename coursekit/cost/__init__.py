"""What a batch costs: the teaching formula, rooflines, and what was measured on a machine."""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "Breakdown": ".roofline",
    "CalibratedCost": ".calibrated",
    "CostModel": ".base",
    "DEVICES": ".devices",
    "EFFICIENCIES": ".roofline",
    "Efficiency": ".roofline",
    "FormulaCost": ".formula",
    "Hardware": ".devices",
    "KernelGridCost": ".kernel_grid",
    "MeasuredIteration": ".calibrated",
    "Profile": ".calibrated",
    "RooflineCost": ".roofline",
    "Work": ".arithmetic",
    "batch_work": ".arithmetic",
    "calibrate_model": ".calibrate",
    "chunk_work": ".arithmetic",
    "measure_batches": ".calibrate",
    "measured_cpu": ".devices",
    "measured_iterations": ".from_trace",
    "profiles": ".profiling",
    "read_grids": ".grid_files",
    "recorded_cost": ".profiling",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
