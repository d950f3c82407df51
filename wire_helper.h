/* SPDX-License-Identifier: GPL-2.0 */
/* The protocol's header as the kernel has it, for bindgen. */
#include <linux/time.h>
#include <linux/coda.h>
