/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the kernel asks of a program that calls its helpers. */
#ifndef FIMBRIA_LICENCE_H
#define FIMBRIA_LICENCE_H

#include "helpers.h"

char licence[] SEC("license") = "Dual BSD/GPL";

#endif
