def plot(report, directory):
    return []
