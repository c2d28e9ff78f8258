package scenario

// Action is one change of a world.
type Action interface {
	// String says what is done, for people.
	String() string
}

// Apply makes Objects the declared state.
type Apply struct{ Objects Objects }

// String implements Action.
func (Apply) String() string { return "apply objects" }

// Enrol brings a pod into the mesh.
type Enrol struct{ Pod string }

// String implements Action.
func (a Enrol) String() string { return "enrol " + a.Pod }

// Leave takes a pod out of the mesh.
type Leave struct{ Pod string }

// String implements Action.
func (a Leave) String() string { return "leave " + a.Pod }

// StopServer ends the listeners of a pod as a rollout does: connections that
// are open or waiting to be accepted are served to their end first. It returns
// when the listeners are closed.
type StopServer struct{ Pod string }

// String implements Action.
func (a StopServer) String() string { return "stop the server of " + a.Pod }
