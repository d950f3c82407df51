# SPDX-License-Identifier: GPL-2.0
# Random operations, the same ones for the same seed: three users take turns.
# order: strict
results=$1 seed=$2 count=$3
mkdir ops
codadiff ops --seed "$seed" --count "$count" --dir /coda/ops \
	--log "$results/ops" --trace "$results/trace"
