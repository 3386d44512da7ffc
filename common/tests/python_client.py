"""Prometheus' Python client, both ways: `read FORMAT` says as JSON what it reads of the text on standard
input, `write FORMAT` writes the samples that stand there as JSON. A sample is [name, labels, value,
milliseconds or null]."""

import json
import sys

from prometheus_client import CollectorRegistry, exposition, parser
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.openmetrics import parser as openmetrics_parser


class Given:
    def __init__(self, samples):
        self.samples = samples

    def collect(self):
        for name, labels, value, at in self.samples:
            family = GaugeMetricFamily(name, 'A "help"\nwith \\ and é.', labels=list(labels))
            family.add_metric(list(labels.values()), float(value), None if at is None else at / 1000)
            yield family


def read(text, module):
    for family in module.text_string_to_metric_families(text):
        for sample in family.samples:
            at = None if sample.timestamp is None else round(float(sample.timestamp) * 1000)
            yield [sample.name, sample.labels, repr(float(sample.value)), at]


def main(way, form):
    given = sys.stdin.buffer.read().decode()
    is_open = form == "openmetrics"
    if way == "read":
        print(json.dumps(list(read(given, openmetrics_parser if is_open else parser))))
        return
    registry = CollectorRegistry()
    registry.register(Given(json.loads(given)))
    module = openmetrics_exposition if is_open else exposition
    sys.stdout.buffer.write(module.generate_latest(registry, escaping="allow-utf-8"))


main(*sys.argv[1:])
