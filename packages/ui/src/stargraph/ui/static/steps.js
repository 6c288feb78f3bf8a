export function startSteps() {}
