export function startTree() {}
