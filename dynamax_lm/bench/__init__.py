"""Speed benchmarks: ratios of seconds in one process, to transformers and to hardware limits."""
