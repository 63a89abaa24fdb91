// Small static programs for the test cluster's images; the standard library is all they need.
module kybernis.io/e2e/cluster/images

go 1.26.0
