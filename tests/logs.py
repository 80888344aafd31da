"""Logs of TorchServe for tests: one of a crash loop, one of a healthy server."""

# What one worker too many leaves behind; docs/diagnosis.md shows what is said of it.
CRASH_LOOP = """\
2026-11-21T03:29:13,082 [INFO ] main org.pytorch.serve.wlm.ModelManager - Model bert loaded.
2026-11-21T03:29:24,500 [WARN ] W-9004-bert_1.0-stderr MODEL_LOG - 2021-Aug-27 23:22:12.0323 28078:28078 ERROR   \
NRT:nrt_allocate_neuron_cores               NeuronCore(s) not available - Requested:1 Available:0
2026-11-21T03:29:24,560 [INFO ] W-9004-bert_1.0-stdout MODEL_LOG - Backend worker process died.
2026-11-21T03:29:24,571 [INFO ] W-9004-bert_1.0-stdout MODEL_LOG - RuntimeError: The PyTorch Neuron Runtime could not \
be initialized. Neuron Driver issues are logged
2026-11-21T03:29:24,571 [INFO ] W-9004-bert_1.0-stdout MODEL_LOG - to your system logs. See the Neuron Runtime's \
troubleshooting guide for help on this
2026-11-21T03:29:24,571 [INFO ] W-9004-bert_1.0-stdout MODEL_LOG - topic: \
https://awsdocs-neuron.readthedocs-hosted.com/en/latest/
2026-11-21T03:29:24,608 [WARN ] W-9004-bert_1.0 org.pytorch.serve.wlm.BatchAggregator - Load model failed: bert, \
error: Worker died.
2026-11-21T03:29:26,608 [WARN ] W-9004-bert_1.0 org.pytorch.serve.wlm.BatchAggregator - Load model failed: bert, \
error: Worker died.
"""
HEALTHY = """\
2026-11-21T02:30:45,226 [WARN ] main org.pytorch.serve.util.ConfigManager - Your torchserve instance can access any \
URL to load models. When deploying to production, make sure to limit the set of allowed_urls in config.properties
2026-11-21T02:30:45,508 [INFO ] main org.pytorch.serve.metrics.configuration.MetricConfiguration - Successfully loaded
2026-11-21T03:29:13,082 [WARN ] main org.pytorch.serve.ModelServer - Invalid model config in mar, minWorkers:0
2026-11-21T03:29:18,080 [INFO ] main org.pytorch.serve.ModelServer - Metrics API bind to: http://127.0.0.1:8082
2026-11-21T03:29:22,698 [INFO ] epollEventLoopGroup-3-4 ACCESS_LOG - /127.0.0.1:3571 "GET /models/bert HTTP/1.1" 200 8
2026-11-21T02:30:49,495 [INFO ] W-9000-bert_1.0-stdout MODEL_LOG - Torch worker started.
2026-11-21T02:30:49,741 [INFO ] W-9000-bert_1.0-stdout MODEL_LOG - model_name: bert, batchSize: 4
2026-11-21T02:30:49,800 [INFO ] W-9000-bert_1.0 org.pytorch.serve.wlm.WorkerThread - Backend response time: 512
INFO:Neuron:Number of arithmetic operators (post-compilation) before = 160, compiled = 160, percent compiled = 100.0%
2026-11-21T02:30:50,340 [INFO ] W-9000-bert_1.0-stdout MODEL_LOG - Backend received inference at: 1795228250
"""
