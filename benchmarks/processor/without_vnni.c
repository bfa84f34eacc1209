/* Preloaded: answers the cpuid of an x86-64 processor that has AVX2 and neither AVX-512, VNNI nor AMX.

   without_vnni.py puts ud2 (0f 0b) in the place of cpuid (0f a2) in copies of libraries. Each raises
   SIGILL; the handler executes cpuid, clears the flags and goes on behind it. /proc/cpuinfo is read
   from the file that TRISLIM_CPUINFO names. Handlers that others install for SIGILL are ignored.

   Flags: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, CPUID, leaf 07H. */

#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

static void answer_cpuid(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
    unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
    (void)info;
    if (instruction[0] != 0x0f || instruction[1] != 0x0b) { /* a real illegal instruction */
        signal(number, SIG_DFL);
        return;
    }
    __cpuid_count(leaf, subleaf, a, b, c, d);
    if (leaf == 7 && subleaf == 0) {
        /* AVX512F, DQ, IFMA, PF, ER, CD, BW, VL */
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        /* AVX512_VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ */
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        /* AVX512_4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8 */
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    } else if (leaf == 7 && subleaf == 1) {
        a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23)); /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
        d &= ~(BIT(4) | BIT(5) | BIT(10) | BIT(19)); /* AVX-VNNI-INT8, NE-CONVERT, INT16, AVX10 */
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

int sigaction(int number, const struct sigaction *wanted, struct sigaction *before) {
    static int (*next)(int, const struct sigaction *, struct sigaction *);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "sigaction");
    if (number == SIGILL && wanted && wanted->sa_sigaction != answer_cpuid) return 0;
    return next(number, wanted, before);
}

static const char *instead_of(const char *path) {
    const char *other = getenv("TRISLIM_CPUINFO");
    return other && path && !strcmp(path, "/proc/cpuinfo") ? other : path;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        static int (*next)(const char *, int, ...);                                                \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        int mode = va_arg(rest, int);                                                              \
        va_end(rest);                                                                              \
        if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name);                                      \
        return next(instead_of(path), flags, mode);                                                \
    }
#define FOPEN(name)                                                                                \
    FILE *name(const char *path, const char *mode) {                                               \
        static FILE *(*next)(const char *, const char *);                                          \
        if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name);                                      \
        return next(instead_of(path), mode);                                                       \
    }

OPEN(open)
OPEN(open64)
FOPEN(fopen)
FOPEN(fopen64)

__attribute__((constructor)) static void install(void) {
    struct sigaction handler;
    memset(&handler, 0, sizeof handler);
    handler.sa_sigaction = answer_cpuid;
    handler.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &handler, NULL);
}
