#!/bin/sh
# make demo: a mixture of the four experts beside this file, reopened and compared with its sources tensor by tensor.
set -eu
moerge=$1
here=$(dirname "$0")
out=build/demo/family-4x1M
mkdir -p build/demo
echo "\$ $moerge moe $here/moe.yaml $out --verify --overwrite"
"$moerge" moe "$here/moe.yaml" "$out" --verify --overwrite
cat <<EOF

The model lies in $out:
$(cd "$out" && ls -l | awk 'NR > 1 { printf "  %9d  %s\n", $5, $9 }')

What next:
  - see it before it is built:     $moerge plan $here/moe.yaml
  - see where its routers send:    $moerge route $here/moe.yaml --html build/demo/routing.html
  - watch its experts speak:       $moerge chat $here/moe.yaml --show-routing
  - load it in Python:             AutoModelForCausalLM.from_pretrained("$out")
  - make a GGUF of it:             $moerge gguf $here/moe.yaml build/demo --type q8_0
  - use your own models:           edit $here/moe.yaml; $moerge moe --help explains every flag
EOF
