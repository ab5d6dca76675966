// Package failpoint ends the process by SIGKILL at a named point of its work, in
// builds with the tag failpoint that are told to by the environment: tests kill
// daemons where it hurts most, not only where a random moment finds them.
//
// PERSEID_FAIL names points with a probability, separated by commas:
//
//	PERSEID_FAIL=job.after_append:0.01,logic.after_archive:0.005
//
// A name that ends in * stands for all that begin so. The points are: job.after_fetch,
// job.after_append, job.after_archive, job.before_complete, logic.after_accept,
// logic.after_append, logic.after_archive.
//
// # Guarantees
//
// Without the tag a point is an empty function, which the compiler removes.
package failpoint
