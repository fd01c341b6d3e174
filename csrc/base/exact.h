/* Every file that computes with floats includes this: its compiler must not fuse a multiplication and an addition by itself, also
 * where a package manager lets nobody say -ffp-contract=off (gcc knows the option alone). */
#ifndef EG_BASE_EXACT_H
#define EG_BASE_EXACT_H

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#endif
