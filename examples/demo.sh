#!/bin/sh
# The product on real input: the digits data of scikit-learn (1797 images, 64 features, 10 classes).
symbreak=${1:-symbreak}
show() {
    echo
    echo "\$ symbreak $*"
    "$symbreak" "$@"
    code=$?
    echo "(exit code $code)"
    [ "$code" -le 1 ] || exit "$code"
}
show check mlp:64-64:tanh --data digits --init zeros
show check mlp:64-64:tanh --data digits --init xavier
show check examples/starts.py:lora --data digits
show check examples/starts.py:copied_units --data digits
exit 0
