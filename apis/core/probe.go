package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

// validateProbe checks what the three probes share.
func validateProbe(p *corev1.Probe, path *field.Path) field.ErrorList {
	errs := validateHandler(handler{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, path)
	errs = append(errs, validate.Nonnegative(p.InitialDelaySeconds, path.Child("initialDelaySeconds"))...)
	errs = append(errs, validate.Nonnegative(p.TimeoutSeconds, path.Child("timeoutSeconds"))...)
	errs = append(errs, validate.Nonnegative(p.PeriodSeconds, path.Child("periodSeconds"))...)
	errs = append(errs, validate.Nonnegative(p.SuccessThreshold, path.Child("successThreshold"))...)
	errs = append(errs, validate.Nonnegative(p.FailureThreshold, path.Child("failureThreshold"))...)
	if p.TerminationGracePeriodSeconds != nil && *p.TerminationGracePeriodSeconds <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must be greater than 0"))
	}
	return errs
}

// validateLivenessProbe is for probes whose failure kills: one success is enough for them.
func validateLivenessProbe(p *corev1.Probe, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateProbe(p, path)
	if p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(path.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	return errs
}

func validateReadinessProbe(p *corev1.Probe, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateProbe(p, path)
	if p.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	return errs
}

// handler is what a probe or a hook does; exactly one must be set.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
	grace int64
}

func validateHandler(h handler, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	count := 0
	one := func(name string, check func(*field.Path) field.ErrorList) {
		if count++; count > 1 {
			errs = append(errs, field.Forbidden(path.Child(name), "may not specify more than 1 handler type"))
			return
		}
		errs = append(errs, check(path.Child(name))...)
	}
	if h.exec != nil {
		one("exec", func(at *field.Path) field.ErrorList {
			if len(h.exec.Command) == 0 {
				return field.ErrorList{field.Required(at.Child("command"), "")}
			}
			return nil
		})
	}
	if h.http != nil {
		one("httpGet", func(at *field.Path) field.ErrorList { return validateHTTPGet(h.http, at) })
	}
	if h.tcp != nil {
		one("tcpSocket", func(at *field.Path) field.ErrorList { return validate.PortOrName(h.tcp.Port, at.Child("port")) })
	}
	if h.grpc != nil {
		one("grpc", func(at *field.Path) field.ErrorList { return validate.Port(h.grpc.Port, at.Child("port")) })
	}
	if h.sleep != nil {
		one("sleep", func(at *field.Path) field.ErrorList {
			if h.sleep.Seconds < 0 || h.sleep.Seconds > h.grace {
				return field.ErrorList{field.Invalid(at, h.sleep.Seconds,
					fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", h.grace))}
			}
			return nil
		})
	}
	if count == 0 {
		errs = append(errs, field.Required(path, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(action *corev1.HTTPGetAction, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if action.Path == "" {
		errs = append(errs, field.Required(path.Child("path"), ""))
	}
	errs = append(errs, validate.PortOrName(action.Port, path.Child("port"))...)
	errs = append(errs, validate.OneOf(action.Scheme, path.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, header := range action.HTTPHeaders {
		errs = append(errs, validate.Messages(path.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))...)
	}
	return errs
}

func validateLifecycle(l *corev1.Lifecycle, c *podContext, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	hook := func(h *corev1.LifecycleHandler, at *field.Path) {
		if h != nil {
			errs = append(errs, validateHandler(handler{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep, grace: c.gracePeriod}, at)...)
		}
	}
	hook(l.PostStart, path.Child("postStart"))
	hook(l.PreStop, path.Child("preStop"))
	if l.StopSignal != nil {
		errs = append(errs, validateStopSignal(*l.StopSignal, c.spec.OS, path.Child("stopSignal"))...)
	}
	return errs
}

func validateStopSignal(signal corev1.Signal, os *corev1.PodOS, path *field.Path) field.ErrorList {
	switch {
	case os == nil || os.Name == "":
		return field.ErrorList{field.Forbidden(path, "may not be set for containers with empty `spec.os.name`")}
	case os.Name == corev1.Windows:
		return validate.OneOf(signal, path, corev1.SIGKILL, corev1.SIGTERM)
	}
	return validate.OneOf(signal, path, linuxSignals()...)
}

// linuxSignals lists the signals that a container may be stopped with, sorted.
func linuxSignals() []corev1.Signal {
	signals := sets.New(
		corev1.SIGABRT, corev1.SIGALRM, corev1.SIGBUS, corev1.SIGCHLD, corev1.SIGCLD, corev1.SIGCONT, corev1.SIGFPE, corev1.SIGHUP,
		corev1.SIGILL, corev1.SIGINT, corev1.SIGIO, corev1.SIGIOT, corev1.SIGKILL, corev1.SIGPIPE, corev1.SIGPOLL, corev1.SIGPROF,
		corev1.SIGPWR, corev1.SIGQUIT, corev1.SIGSEGV, corev1.SIGSTKFLT, corev1.SIGSTOP, corev1.SIGSYS, corev1.SIGTERM, corev1.SIGTRAP,
		corev1.SIGTSTP, corev1.SIGTTIN, corev1.SIGTTOU, corev1.SIGURG, corev1.SIGUSR1, corev1.SIGUSR2, corev1.SIGVTALRM,
		corev1.SIGWINCH, corev1.SIGXCPU, corev1.SIGXFSZ, corev1.SIGRTMIN, corev1.SIGRTMAX)
	for i := 1; i <= 15; i++ {
		signals.Insert(corev1.Signal(fmt.Sprintf("SIGRTMIN+%d", i)))
	}
	for i := 1; i <= 14; i++ {
		signals.Insert(corev1.Signal(fmt.Sprintf("SIGRTMAX-%d", i)))
	}
	return slices.Sorted(slices.Values(signals.UnsortedList()))
}
