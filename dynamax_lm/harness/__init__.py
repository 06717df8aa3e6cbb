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
plugin.task_folder         ``_index.TaskIndex``             looks for the tasks that are asked for,
                                                            and not through all files first
plugin.squad_metrics_shim  ``sys.meta_path``                scores coqa without transformers'
                                                            ``squad_metrics``
plugin.errors              ``sys.excepthook``               prints a ``ValueError`` of a model's
                                                            constructor as one line
plugin.unknown_tasks       the words of a ``ValueError``,   names the nearest task
                           ``include_path`` where it began
reporting                  ``evaluate``,                    passes the model to a task's
                           ``Task.apply_filters``           ``apply_filters``, or lets a model
                                                            add metrics of its own
metric_injection           ``Task.doc_iterator``,           lets a model add metrics, with their
                           ``process_results``,             aggregation, to each document
                           ``aggregation``,
                           ``higher_is_better``
setup                      ``Task.build_all_requests``,     stores on the task how its requests
                           ``_instances``, ``sampler.rnd``  were rendered and from which seed
enough_documents           the words of a ``ValueError``    says on every process that one has no
                                                            document
groups                     ``Group.aggregate``              averages every metric that a group's
                                                            tasks share
bootstrap                  ``stderr_for_metric``            lets an aggregation set how often it is
                                                            bootstrapped, instead of its name
cache                      ``CachingLM.__getattr__``        has the model's identity in the key of a
                                                            cached response
templates                  ``utils.env.from_string``        compiles a task's template once
naming                     ``log_experiment_args``,         names a run after the checkpoint that
                           ``_get_model_name``,             the model loaded, also for a model that
                           ``model_source``                 ``simple_evaluate`` is given loaded
manifests                  ``EvaluationTracker``            reports which files a run wrote
                           ``.save_results_*``
rouge                      ``rouge_score``'s               scores TruthfulQA without resampling a
                           ``BootstrapAggregator``          single number
loggers                    ``WandbLogger``                  makes a column of each metric a sample
                           ``._generate_dataset``           has
task_parts                 ``Task._filters``,               gives filters, metric names and the
                           ``_metric_fn_list``,             reading of a task file public names
                           ``_yaml_loader.load_yaml``
task_of_documents          ``ConfigurableTask.download``    makes a task of documents that are
                                                            given
hf_model                   ``HFLM._get_backend``,           has public names for the steps of its
                           ``_create_tokenizer``,           ``hf`` model that a subclass replaces
                           ``_create_model``,
                           ``_loglikelihood_tokens``,
                           ``_detect_batch_size``
processes                  ``HFLM._rank``, ``_world_size``  joins data-parallel processes on CPUs
command_line               ``_cli``, its ``run`` and        exports its parser and value reader
                           ``utils``, and the parsers of
                           its sub-commands
machine                    ``evaluator.add_env_info``       lets a caller omit, or provide, the
                                                            description of the machine
ranks                      ``LM.gather_object``             gathers to all processes
run_registry               none: finds the run of a record  passes the model to ``apply_filters``
=========================  ===============================  =======================================

`rendering`, `reference`, `certified`, `results_config` and `command_contents` read lm-eval's
objects by public names; `responses` are of its response types. `decontamination` reads documents
alone; `run_arguments` reads the command line. `install` has the list of what is wrapped.

The rest of the package subclasses and changes nothing of lm-eval. It imports these public names, as
any user of lm-eval does, and ``tests/test_imports.py`` refuses others:

=========================  ========================================================================
there                      public names, and what for
=========================  ========================================================================
``__main__``               ``cli_evaluate``: the command line itself
``api``                    ``Instance``: a request, as a model of lm-eval takes it
``models.answering``       ``Instance``: as above
``models.requests``        ``handle_stop_sequences``, ``normalize_gen_kwargs``,
                           ``postprocess_generated_text``, ``get_rolling_token_windows``,
                           ``make_disjoint_window``: texts and windows are cut as ``hf`` cuts them
``sweep.run``              ``EvaluationTracker``: writes the files of a point
``report.checks.taskcode`` ``TaskConfig``, ``Instance``, ``handle_non_serializable``, the folder of
                           ``lm_eval.tasks``: logged documents go through the task's own code again
``report.checks.scores``   the version: another release's configuration is not compared
``bench.documents``        ``HFLM``, ``TaskManager``, ``get_task_dict``, ``Instance``: the model
                           that is timed beside ours, and its requests
``bench.runs``             ``HFLM``: as above
``bench.evaluation``       ``simple_evaluate``: what is timed
=========================  ========================================================================
"""
