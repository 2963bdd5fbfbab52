/* A lock in shared memory that outlives whoever dies with it. */
#ifndef CAIRN_ROBUST_LOCK_H
#define CAIRN_ROBUST_LOCK_H

#include <pthread.h>

/* 0, or an errno. */
static inline int rl_make(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;
    int error = pthread_mutexattr_init(&attr);
    if (error)
        return error;
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    error = pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
    return error;
}

#endif
