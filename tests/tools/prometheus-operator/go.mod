// Pins the Prometheus Operator, whose kinds deploy/monitoring has objects of.
// Nothing of it is built.
module catalog-mesh-controller/tests/tools/prometheus-operator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.85.0
