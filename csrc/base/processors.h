/* How many processors this process may keep busy. Reads what the system tells; owns nothing. */
#ifndef EG_BASE_PROCESSORS_H
#define EG_BASE_PROCESSORS_H

/* A good number of threads for this process: one for each fast core that it may run on, and not more than the quota of its
 * control group. At least 1. */
unsigned eg_processors_fast(void);

/* The quota of processor time that the control groups of this process set (cpu.max of version 2, cpu.cfs_quota_us of version
 * 1), the least of all levels, in whole processors, at least 1; 0 if there is none. More threads than that would be stopped
 * for a part of every period, all of them while one holds what the others wait for. `root` precedes every path: "" but in
 * tests. */
unsigned eg_processors_quota(const char *root);

#endif
