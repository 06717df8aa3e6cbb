"""Everything that reaches into lm-eval: hooks, added metrics, reference answers, response caches.

The hooks act on responses that carry records; runs of other models are not changed.

lm-eval 0.4.13 has a public interface for none of the following. Each row ends with the change to
lm-eval that would make it unnecessary.

=========================  ===============================  =======================================
here                       reaches into                     unnecessary once lm-eval
=========================  ===============================  =======================================
plugin.hook, bridge        import of ``lm_eval.models``,    releases its entry point groups for
                           ``model_registry``               models (merged after 0.4.13)
plugin.bridge.add_tasks    ``TaskManager.__init__``         has an entry point group for tasks
plugin.bridge              ``_yaml_loader._Base``           resolves ``include`` and ``data_files``
  .teach_yaml_tags                                          inside a named package
plugin.squad_metrics_shim  ``sys.meta_path``                scores coqa without transformers'
                                                            ``squad_metrics``
plugin.errors              ``sys.excepthook``               prints a ``ValueError`` of a model's
                                                            constructor as one line
reporting                  ``evaluate``,                    passes the model to a task's
                           ``Task.apply_filters``           ``apply_filters``, or lets a model
                                                            add metrics of its own
metric_injection           ``Task.doc_iterator``,           lets a model add metrics, with their
                           ``process_results``,             aggregation, to each document
                           ``aggregation``,
                           ``higher_is_better``
setup                      ``Task.build_all_requests``,     stores on the task how its requests
                           ``_instances``, ``sampler.rnd``  were rendered and from which seed
groups                     ``Group.aggregate``              averages every metric that a group's
                                                            tasks share
bootstrap                  ``stderr_for_metric``            lets an aggregation set how often it is
                                                            bootstrapped, instead of its name
cache                      ``CachingLM.__getattr__``        has the model's identity in the key of a
                                                            cached response
templates                  ``utils.env.from_string``        compiles a task's template once
naming                     ``log_experiment_args``,         names a run after the checkpoint that
                           ``_get_model_name``              the model loaded
manifests                  ``EvaluationTracker``            reports which files a run wrote
                           ``.save_results_*``
rouge                      ``rouge_score``'s               scores TruthfulQA without resampling a
                           ``BootstrapAggregator``          single number
loggers                    ``WandbLogger``                  makes a column of each metric a sample
                           ``._generate_dataset``           has
task_parts                 ``Task._filters``,               gives filters, metric names and the
                           ``_metric_fn_list``,             reading of a task file public names
                           ``_yaml_loader.load_yaml``
command_line               ``_cli.run``, ``_cli.utils``     exports its parser and value reader
machine                    ``evaluator.add_env_info``       lets a caller omit, or provide, the
                                                            description of the machine
ranks                      ``LM.gather_object``             gathers to all processes
run_registry               none: finds the run of a record  passes the model to ``apply_filters``
=========================  ===============================  =======================================

`rendering`, `reference`, `certified`, `results_config` and `command_contents` read lm-eval's
objects by public names; `responses` are of its response types. `decontamination` reads documents
alone.
"""
